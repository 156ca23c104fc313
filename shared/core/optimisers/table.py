"""Every optimiser that a server may step with."""

from collections.abc import Mapping

from shared.core.optimisers import adaptive, fedavgm, scaffold
from shared.core.optimisers.fedadam import fedadam
from shared.core.optimisers.fedavg import fedavg
from shared.core.optimisers.fednova import fednova
from shared.core.optimisers.fedyogi import fedyogi
from shared.core.optimisers.optimiser import Optimiser

OPTIMISERS: Mapping[str, Optimiser] = {
    "fedavg": Optimiser(fedavg, "McMahan et al. 2017, arXiv:1602.05629, Algorithm 1"),
    "fedprox": Optimiser(
        fedavg,
        "Li et al. 2020, arXiv:1812.06127, Algorithm 2",
        client="adds mu (theta - theta_t) to each gradient",
        steps=True,
    ),
    "fednova": Optimiser(
        fednova,
        "Wang et al. 2020, arXiv:2007.07481, Algorithm 1",
        client="weighs its update by 1 / its local steps",
        steps=True,
    ),
    "fedavgm": Optimiser(
        fedavgm.fedavgm, "Hsu et al. 2019, arXiv:1909.06335", fedavgm.MOMENTS, fedavgm.start
    ),
    "fedadam": Optimiser(
        fedadam,
        "Reddi et al. 2021, arXiv:2003.00295, Algorithm 2",
        adaptive.MOMENTS,
        adaptive.start,
        noise=True,
    ),
    "fedyogi": Optimiser(
        fedyogi,
        "Reddi et al. 2021, arXiv:2003.00295, Algorithm 2",
        adaptive.MOMENTS,
        adaptive.start,
        noise=True,
    ),
    "scaffold": Optimiser(
        scaffold.scaffold,
        "Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1, option II",
        scaffold.MOMENTS,
        scaffold.start,
        client="keeps its own control variate, and adds the common one minus its own to each gradient",
        sgd=True,
        steps=True,
    ),
}
