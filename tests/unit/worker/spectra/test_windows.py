import numpy as np
import pytest

from worker.labels import LABELS
from worker.spectra.windows import element_window

ELEMENTS = [label.element for label in LABELS if label.element is not None]


@pytest.mark.parametrize("element", [*ELEMENTS, "Fe"])
def test_a_window_is_the_one_that_astronn_gives(element):
    apogee = pytest.importorskip("astroNN.apogee")
    np.testing.assert_array_equal(
        element_window(element), np.asarray(apogee.aspcap_mask(element, dr=17))
    )


def test_windows_have_the_sizes_that_the_network_expects():
    sizes = [int(element_window(element).sum()) for element in ELEMENTS]
    assert sizes == [
        *(3806, 557, 3776, 505, 13, 106, 51, 102, 24, 8),
        *(16, 19, 31, 28, 29, 46, 70, 24, 206),
    ]
