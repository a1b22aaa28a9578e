"""A test for your own repository: the graph in out/ must compute what its checkpoint computes.

Run it in the directory that holds out/: pytest test_parity.py. To skip it in a quick run: pytest -m "not amp_parity".
"""


def test_graph(amp_parity):
    amp_parity("out")
