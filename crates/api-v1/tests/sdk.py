#!/usr/bin/env python3
"""Drives a running server with the published Python clients, response validation on.

    sdk.py --url http://127.0.0.1:8080 --key KEY [--venvs DIR] [--versions 0.2.0 0.4.0 0.6.0]

Makes one virtual environment a version under --venvs (kept between runs), and runs the same story in
each: create, list, read, watch, change, run a command, sleep, wake, delete. Prints one line a step and
ends with 0 where all of it held. --no-guest leaves out what needs a command to really run.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

VERSIONS = ["0.2.0", "0.4.0", "0.6.0"]


def ensure_venv(root: pathlib.Path, version: str) -> pathlib.Path:
    """The interpreter of an environment that has this version of the client."""
    home = root / f"dedalus-sdk-{version}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        extra = "" if version.startswith(("0.5", "0.6")) else "[websockets]"
        install = [python, "-m", "pip", "install", "--quiet", f"dedalus-sdk{extra}=={version}"]
        subprocess.run(install, check=True)
        (home / "ready").touch()
    return python


class Story:
    """One run with one version of the client."""

    def __init__(self, url: str, key: str, version: str, guest: bool) -> None:
        import dedalus_sdk

        self.sdk = dedalus_sdk
        self.version = version
        self.guest = guest
        self.client = dedalus_sdk.Dedalus(
            base_url=url, api_key=key, _strict_response_validation=True
        )
        # Until 0.2.0, mutating calls must say which revision they believe in.
        self.needs_if_match = version.startswith(("0.0", "0.1", "0.2"))

    def say(self, text: str) -> None:
        print(f"{self.version}: {text}", flush=True)

    @staticmethod
    def revision(machine) -> str:
        status = getattr(machine, "status", None)
        return status.revision if status else machine.revision

    def phase(self, machine) -> str:
        return getattr(machine, "phase", None) or machine.status.phase

    def fresh(self, machine_id: str) -> dict:
        """The arguments of a mutating call."""
        arguments = {"machine_id": machine_id}
        if self.needs_if_match:
            machine = self.client.machines.retrieve(machine_id=machine_id)
            arguments["if_match"] = self.revision(machine)
        return arguments

    def settle(self, machine_id: str, phase: str, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while True:
            machine = self.client.machines.retrieve(machine_id=machine_id)
            if machine.status.phase == phase:
                return
            if machine.status.phase == "failed" or time.monotonic() > until:
                raise AssertionError(f"wanted {phase}, is {machine.status}")
            time.sleep(0.2)

    def retried(self, call):
        """A revision may move between reading and using it: read again, as users of 0.2.0 do."""
        for _ in range(5):
            try:
                return call()
            except self.sdk.ConflictError as error:
                if error.body.get("error_code") != "REVISION_MISMATCH":
                    raise
        raise AssertionError("the revision moved five times")

    def run(self) -> None:
        machines = self.client.machines
        created = machines.create(vcpu=1, memory_mib=1024, storage_gib=10)
        machine_id = created.machine_id
        self.say(f"created {machine_id}, {self.phase(created)}")
        try:
            self.tell(machine_id)
        finally:
            gone = self.retried(lambda: machines.delete(**self.fresh(machine_id)))
            assert gone.desired_state == "destroyed", gone
            self.say("deleted")

    def tell(self, machine_id: str) -> None:
        machines = self.client.machines
        self.settle(machine_id, "running")
        found = machines.retrieve(machine_id=machine_id)
        assert found.machine_id == machine_id and found.memory_mib == 1024, found
        listed = [machine.machine_id for machine in machines.list(limit=1)]
        assert machine_id in listed, listed
        self.say(f"listed {len(listed)}, one a page")
        if hasattr(machines, "watch"):
            seen = [self.phase(machine) for machine in machines.watch(machine_id=machine_id)]
            assert seen and seen[-1] == "running", seen
            self.say(f"watched {seen}")
        if not self.needs_if_match:
            changed = machines.update(machine_id=machine_id, autosleep="15m")
            assert changed.autosleep_seconds == 900, changed
            self.say("changed its autosleep")
        self.fail_as_documented(machine_id)
        if self.guest:
            self.execute(machine_id)
        slept = self.retried(lambda: machines.sleep(**self.fresh(machine_id)))
        assert slept.desired_state == "sleeping", slept
        self.settle(machine_id, "sleeping")
        woken = self.retried(lambda: machines.wake(**self.fresh(machine_id)))
        assert woken.desired_state == "running", woken
        self.settle(machine_id, "running")
        self.say("slept and woke")

    def fail_as_documented(self, machine_id: str) -> None:
        try:
            self.client.machines.retrieve(machine_id="dm-00000000-0000-7000-8000-000000000000")
            raise AssertionError("found a machine that does not exist")
        except self.sdk.NotFoundError as error:
            assert error.body["error_code"] == "NOT_FOUND", error.body
        if self.needs_if_match:
            try:
                self.client.machines.sleep(machine_id=machine_id, if_match="never-a-revision")
                raise AssertionError("took a stale revision")
            except self.sdk.ConflictError as error:
                assert error.body["error_code"] == "REVISION_MISMATCH", error.body
        stranger = self.sdk.Dedalus(base_url=self.client.base_url, api_key="not-a-key")
        try:
            stranger.machines.list()
            raise AssertionError("let a stranger in")
        except self.sdk.AuthenticationError as error:
            assert error.body["error_code"] == "AUTH_INVALID", error.body
        self.say("fails as documented")

    def execute(self, machine_id: str) -> None:
        executions = self.client.machines.executions
        execution = executions.create(
            machine_id=machine_id, command=["/bin/sh", "-c", "echo $WORD; echo oops >&2"], env={"WORD": "hi"}
        )
        while execution.status not in ("succeeded", "failed"):
            time.sleep(0.2)
            execution = executions.retrieve(
                machine_id=machine_id, execution_id=execution.execution_id
            )
        assert execution.exit_code == 0, execution
        named = {"machine_id": machine_id, "execution_id": execution.execution_id}
        output = executions.output(**named)
        assert (output.stdout, output.stderr) == ("hi\n", "oops\n"), output
        sequences = [event.sequence for event in executions.events(**named)]
        assert sequences and sequences == sorted(sequences), sequences
        listed = [one.execution_id for one in executions.list(machine_id=machine_id)]
        assert execution.execution_id in listed, listed
        assert executions.delete(**named).execution_id == execution.execution_id
        self.say("ran a command")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default=os.environ.get("DORMOUSE_API_KEY", ""))
    parser.add_argument("--venvs", type=pathlib.Path)
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--no-guest", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        Story(arguments.url, arguments.key, arguments.inside, not arguments.no_guest).run()
        return 0
    venvs = arguments.venvs or pathlib.Path(tempfile.gettempdir()) / "dormouse-sdk-venvs"
    venvs.mkdir(parents=True, exist_ok=True)
    failed = 0
    for version in arguments.versions:
        command = [ensure_venv(venvs, version), __file__, "--url", arguments.url, "--inside", version]
        command += ["--no-guest"] if arguments.no_guest else []
        environment = os.environ | {"DORMOUSE_API_KEY": arguments.key}
        ended = subprocess.run(command, env=environment, check=False).returncode
        print(f"{version}: {'ok' if ended == 0 else 'FAILED'}", flush=True)
        failed += ended != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
