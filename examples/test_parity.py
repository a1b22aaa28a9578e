"""A test for your own repository: the graph in out/ must compute what its checkpoint computes.

Run it in the directory that holds out/: pytest test_parity.py. To skip it in a quick run: pytest -m "not amp_parity".
"""

from amp_export.integrations.pytest_plugin import AmpParity


def test_graph(amp_parity: AmpParity) -> None:
    amp_parity("out")
