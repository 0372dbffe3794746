"""Settings of the self-test."""

from __future__ import annotations

from pydantic import Field

from megatron_ipt.config.settings import Settings


class SelftestConfig(Settings):
    """A test of the machines, the network and the file system that runs will use."""

    output: str = Field(description="folder on the file system of your runs; what is written there is removed again")
    message_mib: int = Field(128, ge=1, description="MiB of each all-reduce whose bandwidth is measured")
    min_node_gbytes: float | None = Field(
        None, gt=0, description="required bus bandwidth between the ranks of a node, in GB/s; only reported if not set"
    )
    min_network_gbytes: float | None = Field(
        None, gt=0, description="required bus bandwidth between nodes per rank, in GB/s; only reported if not set"
    )
