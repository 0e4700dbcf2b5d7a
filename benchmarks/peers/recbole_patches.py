"""What RecBole 1.2.1 needs beside torch 2.13 and numpy 2; import it before recbole.

Beyond these, ray asks for pkg_resources: install `setuptools<81`.
"""

from functools import partial

import numpy as np
import torch

np.bool8 = np.bool_  # ray.tune
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_  # its own config
torch.load = partial(torch.load, weights_only=False)  # its own checkpoints hold objects
