"""What cmappmgr does while it follows an application: pure. The rules are in `follower`."""
