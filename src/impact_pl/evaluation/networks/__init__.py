"""The embedding networks of published figures, each loaded from its official checkpoint in a local folder."""

from pathlib import Path

from impact_pl.errors import UserError
from impact_pl.evaluation.networks.clap import Clap
from impact_pl.evaluation.networks.cnn14 import Cnn14
from impact_pl.evaluation.networks.interface import Network, NetworkFeatures
from impact_pl.evaluation.networks.passt import Passt
from impact_pl.evaluation.networks.vggish import Vggish

__all__ = ["NETWORKS", "Network", "NetworkFeatures", "load_network"]

NETWORKS: dict[str, type[Network]] = {"cnn14": Cnn14, "vggish": Vggish, "clap": Clap, "passt": Passt}


def load_network(name: str, weights: str | Path) -> Network:
    """The network ``name`` with the files of the folder ``weights`` (docs/parity.md lists their names).

    Raises:
        ValueError: an unknown name, no such folder, or a file or package that is missing.
    """
    if name not in NETWORKS:
        raise UserError(f"unknown evaluation network {name!r}; choose one of {', '.join(NETWORKS)}")
    weights = Path(weights)
    if not weights.is_dir():
        raise UserError(f"{weights}: no such folder of weights (docs/parity.md says what it must hold)")
    return NETWORKS[name](weights)
