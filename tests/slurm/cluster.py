"""A real Slurm on one machine: a controller and nodes, each with its own network, name, mounts and processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
NETWORK = "10.91.7"
NODES = ("n1", "n2")
_CONF = """\
ClusterName=test
SlurmctldHost=ctl({network}.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
MinJobAge=86400
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=15
PartitionName=main Nodes=ALL Default=YES
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


@dataclass
class Cluster:
    """Slurm's daemons and the hosts they run on; nothing outside of `folder` changes, no packet leaves the machine.

    A requeued job waits for `cred_expire` (120 s by default); a node that is gone is noticed after `SlurmdTimeout`
    (300 s by default).
    """

    folder: Path
    hosts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Write the configuration and boot every host; returns when the nodes take jobs."""
        for name in ("etc", "log", "run", "state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o600)
        addresses = {"ctl": f"{NETWORK}.1", **{node: f"{NETWORK}.{10 + k}" for k, node in enumerate(NODES)}}
        hosts = "".join(f"{address} {name}\n" for name, address in addresses.items())
        (self.folder / "etc" / "hosts").write_text("127.0.0.1 localhost\n" + hosts)
        nodes = "".join(f"NodeName={node} NodeAddr={addresses[node]} CPUs=8 RealMemory=8000\n" for node in NODES)
        (self.folder / "etc" / "slurm.conf").write_text(nodes + _CONF.format(network=NETWORK, folder=self.folder))
        self._boot("ctl", addresses["ctl"], "slurmctld", "-D")
        self._wait_until_up("ctl")
        for node in NODES:
            self.power_on(node)
        self.wait_for(lambda: self.node_states() == dict.fromkeys(NODES, "idle"), 60)

    def power_on(self, node: str) -> None:
        """Boot a node with an empty network card on the cluster's bridge."""
        (self.folder / "run" / f"{node}.up").unlink(missing_ok=True)
        self._boot(node, f"{NETWORK}.{10 + NODES.index(node)}", "slurmd", "-D", "-N", node)
        card = f"card-{node}"
        if self.run("ip", "link", "show", card, check=False).returncode == 0:
            self.run("ip", "link", "del", card)  # a node that lost power may leave it behind
        netns = str(self.hosts[node].pid)
        self.run("ip", "link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", netns)
        self.run("ip", "link", "set", card, "master", "br0", "up")
        self._wait_until_up(node)

    def power_off(self, host: str) -> None:
        """Every process of the host is gone at once."""
        process = self.hosts.pop(host)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """Power off all hosts."""
        for host in list(self.hosts):
            self.power_off(host)

    def run(self, *command: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on the login host, which is the controller."""
        nsenter = ["nsenter", "--target", str(self.hosts["ctl"].pid), "--net", "--uts", "--mount"]
        done = subprocess.run(
            [*nsenter, f"--wdns={cwd or Path.cwd()}", *command], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def node_states(self) -> dict[str, str]:
        """What sinfo says of each node."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T", check=False).stdout
        return dict(line.split() for line in lines.splitlines())

    def job(self, number: str) -> dict[str, str]:
        """What scontrol says of a job, or of the first of an array."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", "--oneliner", number).stdout))

    def wait_for_state(self, number: str, *states: str, timeout_seconds: float) -> None:
        """Wait until the job is in one of the states."""
        self.wait_for(lambda: self.job(number)["JobState"] in states, timeout_seconds)

    def wait_for(self, condition: Callable[[], bool], timeout_seconds: float) -> None:
        """Ask twice a second; with what Slurm has to say when it takes too long."""
        deadline_seconds = time.monotonic() + timeout_seconds
        while not condition():
            assert time.monotonic() < deadline_seconds, self._situation()
            time.sleep(0.5)

    def _boot(self, host: str, address: str, *daemon: str) -> None:
        namespaces = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child"]
        with (self.folder / "log" / f"{host}.log").open("ab") as log:
            self.hosts[host] = subprocess.Popen(
                [*namespaces, str(HERE / "host.sh"), host, address, str(self.folder), *daemon],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_up(self, host: str) -> None:
        self.wait_for(lambda: (self.folder / "run" / f"{host}.up").exists(), 30)

    def _situation(self) -> str:
        jobs, nodes = self.run("scontrol", "show", "job", check=False), self.run("sinfo", "--Node", check=False)
        logs = "\n".join(log.read_text(errors="replace")[-1500:] for log in (self.folder / "log").iterdir())
        written = {Path(name) for name in re.findall(r"StdOut=(\S+)", jobs.stdout)}
        last = max((file for file in written if file.exists()), key=lambda file: file.stat().st_mtime, default=None)
        output = f"{last}:\n{last.read_text(errors='replace')[-5000:]}" if last else ""
        return f"{nodes.stdout}\n{jobs.stdout}\n{logs}\n{output}"


def missing_reason() -> str | None:
    """Why Slurm cannot be installed here, if it cannot."""
    namespaces = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if os.geteuid() != 0 or subprocess.run(namespaces, capture_output=True, check=False).returncode != 0:
        return "the cluster's hosts are namespaces, which cannot be made here: run it as root"
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        return "Slurm is not installed and there is no apt-get to install it"
    installed = subprocess.run([str(HERE / "install.sh")], capture_output=True, text=True, check=False)
    return None if installed.returncode == 0 else f"Slurm cannot be installed: {installed.stderr[-500:]}"
