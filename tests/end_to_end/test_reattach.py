"""A manager that was away: it finds the run again, and the result that it missed."""

import signal

from tests.end_to_end.harness import Scene
from tests.end_to_end.programs import wait_for


def test_after_kill_9_a_new_manager_follows_the_same_run(scene: Scene) -> None:
    guest = scene.guest
    guest.obedient("db")
    guest.start()
    first = scene.manager("db")
    first.wait_said("running")
    pid, run = guest.pid_of("db"), guest.status("db")["run"]
    first.kill()
    guest.wait_status("db", owner="vmhost1")
    second = scene.manager("db")
    second.wait_said(f"running, pid {pid} (run {run})")
    status = guest.status("db")
    assert (status["pid"], status["run"], status["owner_silent_for"]) == (pid, run, None)
    guest.order("db", 7)
    assert second.wait() == 7
    assert second.report()["run"] == run


def test_a_result_that_nobody_heard_is_delivered_once(scene: Scene) -> None:
    guest = scene.guest
    guest.obedient("db")
    guest.start()
    first = scene.manager("db")
    first.wait_said("running")
    run = guest.status("db")["run"]
    first.kill()
    guest.order("db", 7)
    guest.wait_status("db", phase="failed")
    second = scene.manager("db")
    assert second.wait() == 7
    assert second.report()["run"] == run
    assert "exit 7, app: ended by itself, exit code 7" in second.said()
    assert not guest.pids("db")
    third = scene.manager("db")
    third.wait_said("running")
    assert guest.status("db")["run"] != run
    assert third.stop() == 0


def test_a_result_waits_for_a_paused_link_too(scene: Scene) -> None:
    """The manager stands still while the application ends, and is told when it goes on."""
    guest = scene.guest
    guest.obedient("db")
    guest.start()
    manager = scene.manager("db")
    manager.wait_said("running")
    manager.signal(signal.SIGSTOP)
    guest.order("db", 7)
    guest.wait_status("db", phase="failed")
    manager.signal(signal.SIGCONT)
    assert manager.wait() == 7


def test_a_success_that_nobody_heard_does_not_keep_it_from_starting(scene: Scene) -> None:
    """Nobody waits for it any more, and a package that starts wants its application to run."""
    guest = scene.guest
    guest.obedient("db")
    guest.start()
    first = scene.manager("db")
    first.wait_said("running")
    run = guest.status("db")["run"]
    first.kill()
    guest.order("db", 0)
    guest.wait_status("db", phase="stopped")
    second = scene.manager("db")
    second.wait_said("running")
    assert "ended by itself, exit code 0" in second.said()
    assert guest.status("db")["run"] != run
    assert second.stop() == 0


def test_another_manager_may_follow_when_the_lease_is_over(scene: Scene) -> None:
    guest = scene.guest
    guest.obedient("db", manager={"lease": "5s"})
    guest.start()
    first = scene.manager("db")
    first.wait_said("running")
    pid = guest.pid_of("db")
    first.kill()
    host2 = scene.host(scene.authority.manager("vmhost2"))
    early = scene.manager("db", config=host2)
    assert early.wait() == 206
    assert "owned by vmhost1 (not connected, its lease not over)" in early.said()
    wait_for(lambda: guest.status("db")["owner_silent_for"] > 5)
    late = scene.manager("db", config=host2)
    late.wait_said(f"running, pid {pid}")
    assert guest.status("db")["owner"] == "vmhost2"
    assert late.stop() == 0


def test_who_stood_still_past_its_lease_is_not_taken_for_the_owner_afterwards(scene: Scene) -> None:
    guest = scene.guest
    guest.obedient("db", manager={"on_lost": "stop", "lease": "5s"})
    guest.start()
    first = scene.manager("db")
    first.wait_said("running")
    first.signal(signal.SIGSTOP)
    guest.wait_status("db", phase="stopped")
    second = scene.manager("db", config=scene.host(scene.authority.manager("vmhost2")))
    second.wait_said("running")
    run = guest.status("db")["run"]
    first.signal(signal.SIGCONT)
    assert first.wait() == 206
    assert run not in first.said()
    assert guest.status("db")["owner"] == "vmhost2"
    assert second.stop() == 0


def test_a_revocation_parts_with_one_manager_and_leaves_the_others_to_come_back(
    scene: Scene,
) -> None:
    guest = scene.guest
    for app in ("db", "web"):
        guest.obedient(app)
    guest.start()
    stolen = scene.authority.manager("vmhost2")
    good, bad = scene.manager("db"), scene.manager("web", config=scene.host(stolen))
    for manager in (good, bad):
        manager.wait_said("running")
    before = {app: guest.status(app) for app in ("db", "web")}
    guest.tls["crl"] = scene.authority.crl([stolen])
    guest.write()
    good.wait_said("lost")
    bad.wait_said("the peer refused our certificate: it is revoked")
    again = guest.wait_status("db", owner_silent_for=None)
    assert (again["pid"], again["owner"]) == (before["db"]["pid"], "vmhost1")
    web = guest.status("web")
    assert (web["pid"], web["owner"]) == (before["web"]["pid"], "vmhost2")
    assert web["owner_silent_for"] is not None
    assert good.stop() == 0
    bad.kill()
