"""Plays what a stranger and the reference client do together at a running service, and checks each step.

    play.py ORIGIN CONCLAVE FOLDER

FOLDER holds the reference client's store. Ends with 0 where everything holds; else with 1, and says at which step.
"""

import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stranger import vectors
from stranger.client import Client, Group
from stranger.enrolment import Enrolling
from stranger.frames import GetStatus
from stranger.identity import Contact, OwnDevice, contact_text, read_contact, safety_number
from stranger.records import Match
from stranger.yjs import Replica

GREETING = "Grüße, 𝄞 und 🎻\n"  # two take two UTF-16 code units, as Yjs counts


ENVIRONMENT = os.environ | {"CONCLAVE_PASSPHRASE": "what a stranger need not know"}


class Failed(Exception):
    pass


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Failed(what)


@contextmanager
def step(name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except Exception:
        print(f"FAILED at: {name}", flush=True)
        raise
    print(f"ok {time.monotonic() - began:5.1f} s  {name}", flush=True)


class Reference:
    """The program `conclave`, as Rita runs it. The stranger stays online meanwhile."""

    def __init__(self, program: str, url: str, folder: Path, stranger: Client):
        self.command = [program, "--home", str(folder / "rita"), "--server", url]
        self.stranger, self.url = stranger, url
        self.agent: subprocess.Popen | None = None

    def begin(self) -> None:
        """Makes the store, and stays online from then on."""
        self.run("init", "--name", "Rita")
        self.agent = subprocess.Popen(
            [*self.command, "agent"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
        )

    def __enter__(self) -> "Reference":
        return self

    def __exit__(self, *_: object) -> None:
        if self.agent is not None:
            self.agent.terminate()
            self.agent.wait()

    def run(self, *arguments: str, given: str = "") -> str:
        with subprocess.Popen(
            [*self.command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(given)
            process.stdin.close()
            is_over = self.stranger.connection.pump(lambda: process.poll() is not None, 60)
            if not is_over:
                process.kill()
            shown = process.stdout.read()
        check(
            is_over and process.returncode == 0,
            f"`conclave {' '.join(arguments)}` ends with {process.returncode}:\n{shown}",
        )
        return shown

    def run_until(self, wanted: str, *arguments: str) -> None:
        """Again and again, until it shows what is wanted: what the service has may not be there yet."""
        end, shown = time.monotonic() + 30, ""
        while wanted not in shown:
            check(time.monotonic() < end, f"`conclave {' '.join(arguments)}` shows no {wanted!r}:\n{shown}")
            shown = self.run(*arguments)

    def code(self, group: str) -> str:
        return " ".join(re.findall(r"\b\d{5}\b", self.run("group", "members", group).split("group code")[1]))

    def agrees(self, name: str, client: Client, group: Group) -> bool:
        """Whether both come to have one code: either may be a commit behind the other just now."""
        for _ in range(15):
            code = self.code(name)
            if client.connection.pump(lambda code=code: group.code() == code, 2):  # type: ignore[misc]
                return True
        return False

    def contact(self) -> str:
        return next(line for line in self.run("whoami").splitlines() if line.startswith("conclave:user:"))


def play(stranger: Client, rita: Reference) -> None:
    with step("the two exchange contacts; the safety numbers are equal"):
        rita.begin()
        contact = read_contact(rita.contact())
        shown = rita.run("verify", "--compared", contact_text(stranger.own.contact))
        check(safety_number(stranger.own.genesis, contact.genesis) in shown, f"the safety number in:\n{shown}")
    group = of_the_stranger(stranger, rita, contact)
    of_a_device(rita, *of_the_reference(stranger, rita))
    with step("the stranger renews its leaf, and the reference client follows"):
        stranger.commit(group, [])
        check(rita.agrees("Strangers", stranger, group), "the group's code")
    with step("the stranger removes the reference client, and puts every document under new keys"):
        stranger.remove(group, contact.genesis.user())
        check(group.users() == {stranger.own.user}, "the members left")
        check("this device was removed" in rita.run("group", "list"), "the removal at the reference client")
        check(not stranger.ask(GetStatus(group=group.id)).rotating_since, "the end of the rotation")
    with step("the reference client found nothing wrong"):
        shown = rita.run("findings", "list")
        check("nothing was found wrong" in shown, shown)


def of_the_stranger(stranger: Client, rita: Reference, contact: Contact) -> Group:
    with step("the stranger founds a group and writes its directory's root map"):
        group = stranger.found("Strangers")
        check(stranger.directory(group) == {"name": "Strangers"}, "the directory's root map")
    with step("the stranger invites the reference client, which joins and reads the name"):
        stranger.invite(group, contact)
        rita.run_until("Pyotr", "group", "invitations")
        check("joined Strangers" in rita.run("group", "accept", "Pyotr"), "the group's name at the reference client")
    with step("the group codes are equal"):
        check(rita.agrees("Strangers", stranger, group), "the group's code")
    with step("text goes both ways"):
        notes = stranger.open(group, stranger.create_titled(group, "Notes", "first line\n"))
        stranger.edit(notes, lambda replica: append(replica, GREETING))
        rita.run_until(f"first line\n{GREETING}", "doc", "cat", "Notes")
        rita.run("doc", "append", "Notes", given=f"Rita: {GREETING}")
        wanted = f"first line\n{GREETING}Rita: {GREETING}"
        stranger.wait(lambda: str(notes.content.replica.text) == wanted, "what the reference client wrote")
    with step("the reference client finds the stranger's snapshot right"):
        snapshot = stranger.put_snapshot(notes)
        stranger.wait(lambda: bool(notes.verdicts), "a verdict")
        said = [(it.snapshot, type(it.judgement)) for _, it in notes.verdicts]
        check(said == [(snapshot, Match)], f"the verdicts: {notes.verdicts}")
    return group


def of_the_reference(stranger: Client, rita: Reference) -> tuple[bytes, bytes]:
    with step("the reference client founds a group, and the stranger joins"):
        rita.run("group", "create", "Rita's")
        rita.run("doc", "create", "Rita's", "Plan")
        rita.run("doc", "append", "Plan", given=f"a plan: {GREETING}")
        rita.run("group", "invite", "Rita's", "Pyotr")
        stranger.wait(lambda: bool(stranger.welcomes), "a Welcome")
        group = stranger.accept(next(iter(stranger.welcomes.values())))
        check(rita.agrees("Rita's", stranger, group), "the group's code")
    with step("the stranger reads the directory and the plan, and writes on"):
        titles = stranger.directory(group)
        check(titles["name"] == "Rita's", f"the directory: {titles}")
        plan = stranger.open(group, bytes.fromhex(next(key for key, title in titles.items() if title == "Plan")))
        check(str(plan.content.replica.text) == f"a plan: {GREETING}", "the plan")
        stranger.edit(plan, lambda replica: append(replica, GREETING))
        rita.run_until(f"a plan: {GREETING}{GREETING}", "doc", "cat", "Plan")
    with step("the stranger leaves, and the reference client completes it"):
        stranger.leave(group)
        stranger.wait(lambda: group.id in stranger.left, "the commit that completes it", 60)
    with step("the stranger, invited again, joins again and reads what was put under new keys"):
        rita.run("group", "invite", "Rita's", "Pyotr")
        stranger.wait(lambda: bool(stranger.welcomes), "a Welcome")
        group = stranger.accept(next(iter(stranger.welcomes.values())))
        again = stranger.open(group, plan.id)
        check(str(again.content.replica.text) == f"a plan: {GREETING}{GREETING}", "the plan")
    return group.id, plan.id


def of_a_device(rita: Reference, group_id: bytes, document: bytes) -> None:
    enrolling = Enrolling("phone")
    with step("the reference client approves a device that the stranger makes for its user"):
        shown = rita.run("device", "approve", enrolling.text(), "--code", enrolling.code())
        approval = re.search(r"conclave:device-approval:\S+", shown)
        assert approval is not None, shown
        phone = Client(enrolling.finish(approval[0]), rita.url)
        phone.connect()
    with closing(phone), step("that device is taken into the group, and reads"):
        # It is taken into every group of its user's, in any order.
        phone.wait(lambda: group_id in phone.welcomes, "a Welcome", 60)
        group = phone.accept(phone.welcomes[group_id])
        check(rita.agrees("Rita's", phone, group), "the group's code")
        plan = phone.open(group, document)
        check(GREETING in str(plan.content.replica.text), "the plan")
    with step("the reference client revokes it, and it is let in no more"):
        rita.run("device", "revoke", "phone")
        try:
            phone.connect()
        except ConnectionError as refused:
            check("forbidden" in str(refused), f"why: {refused}")
        else:
            check(False, "a revoked device is let in")


def append(replica: Replica, text: str) -> None:
    replica.text.insert(len(replica.text), text)


def main() -> int:
    url, program, folder = sys.argv[1:]
    try:
        with step("the page's vectors"):
            vectors.check()
        stranger = Client(OwnDevice.of_new_user("Pyotr"), url)
        with step("the stranger logs in and publishes key packages"):
            stranger.connect()
        with closing(stranger), Reference(program, url, Path(folder), stranger) as rita:
            play(stranger, rita)
    except Exception:
        traceback.print_exc()
        return 1
    print("everything holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
