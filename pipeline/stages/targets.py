"""Config -> the destination table of pipeline.engines.nat (engines know no Config)."""

from pipeline.config import Config
from pipeline.engines.nat import Nat


def make_nat(config: Config) -> Nat:
    """The table as configured: subnet, gateway, virtual addresses, rewritten destinations."""
    return Nat(
        network=int(config.subnet.network_address),
        prefix_len=config.subnet.prefixlen,
        gateway=config.gateway_ip,
        virtual=config.gateway_virtual_ips,
        table=config.nat,
        ec2_metadata_access=config.ec2_metadata_access,
    )
