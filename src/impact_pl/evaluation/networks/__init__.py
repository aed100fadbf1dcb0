"""Embedding networks: YAMNet, whose weights come with a package, and those of published tables."""

from collections.abc import Sequence
from pathlib import Path

from impact_pl.errors import UserError
from impact_pl.evaluation.networks.clap import Clap
from impact_pl.evaluation.networks.cnn14 import Cnn14
from impact_pl.evaluation.networks.interface import Network, NetworkFeatures
from impact_pl.evaluation.networks.passt import Passt
from impact_pl.evaluation.networks.vggish import Vggish
from impact_pl.evaluation.networks.yamnet import YamNet

__all__ = ["NETWORKS", "Network", "NetworkFeatures", "load_network", "network_classes"]

NETWORKS: dict[str, type[Network]] = {
    "yamnet": YamNet,
    "cnn14": Cnn14,
    "vggish": Vggish,
    "clap": Clap,
    "passt": Passt,
}


def network_classes(names: Sequence[str], weights: str | Path | None) -> list[type[Network]]:
    """Look up networks by name without loading them.

    Raises:
        UserError: A name is unknown, or a published network has no folder of weights.
    """
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        raise UserError(f"unknown evaluation network {unknown[0]!r}; choose one of {', '.join(NETWORKS)}")
    published = [name for name in names if NETWORKS[name].checkpoint is not None]
    if published and weights is None:
        raise UserError(
            f"{', '.join(published)}: give the folder of their files (--weights, in Python weights=; docs/parity.md)"
        )
    return [NETWORKS[name] for name in names]


def load_network(name: str, weights: str | Path | None = None, num_threads: int = 1) -> Network:
    """Load a network.

    Args:
        name: A key of NETWORKS.
        weights: Folder with the published networks' files (docs/parity.md lists their names).
        num_threads: Threads of YAMNet's operators. The others follow ``torch.set_num_threads``.

    Raises:
        UserError: The name is unknown, or the folder, a file or a package is missing.
    """
    (network,) = network_classes([name], weights)
    if network is YamNet:
        return YamNet(num_threads)
    assert weights is not None
    if not Path(weights).is_dir():
        raise UserError(f"{weights}: no such folder of weights (docs/parity.md says what it must hold)")
    return network(weights)
