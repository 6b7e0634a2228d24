"""A VM guest with a kernel of its own, for what the machine of the tests cannot show.

QEMU emulates the machine in software, which is slow (imports take 20 times as long) and needs
nothing of the host: no root, no KVM, no network but a port on the loopback. ::

    with Vm(folder, image(folder)) as vm:
        vm.write("/etc/db.toml", "...")
        assert vm.run("cmappctl check /etc/db.toml").code == 0

``image`` gives what it boots, which is made once; ``Vm`` runs it. All of it is in memory, so that
nothing has to be undone: the root is an initramfs with the interpreter and this version of cmappd.
"""
