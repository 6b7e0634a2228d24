"""The way of an application's output: from its FIFO to a file, the journal, syslog, or nowhere."""
