"""A test for your own repository: does the graph in out/ still compute what its checkpoint computes?

Run it where out/ is: pytest test_parity.py. Leave it out of a quick run: pytest -m "not amp_parity".
"""


def test_graph(amp_parity):
    amp_parity("out")
