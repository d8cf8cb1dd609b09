"""Which earlier head a script comes from, by the syntax of its functions."""

import ast

from pargolf.audit.derived import derive, fingerprints

BASE = '''
import os
RATE = 0.1
def load(path: str) -> list:
    """Read it."""
    return open(path).read()
class Model:
    width = 4
    def forward(self, x):
        return x * self.width
    def loss(self, x, y):
        return ((x - y) ** 2).mean()
def main():
    print(load("a"))
'''


def prints(text: str) -> dict[str, str]:
    return fingerprints(ast.parse(text))


def test_words_about_a_function_do_not_change_it_and_its_numbers_do():
    plain = BASE.replace("path: str) -> list", "path)").replace('    """Read it."""\n', "    # reads\n")
    assert prints(BASE) == prints(plain)
    other = prints(BASE.replace("** 2", "** 3"))
    assert {name for name, mark in prints(BASE).items() if other[name] != mark} == {"Model.loss"}


def test_a_setting_outside_functions_is_one_mark():
    changed = prints(BASE.replace("RATE = 0.1", "RATE = 0.2"))
    assert {n for n, mark in prints(BASE).items() if changed[n] != mark} == {"settings"}


def test_the_source_is_the_earlier_head_that_shares_most():
    edited = BASE.replace("** 2", "** 3")
    again = edited.replace('print(load("a"))', 'print(load("b"))') + "\ndef more():\n    return 1\n"
    found = {one.number: one for one in derive({0: prints(BASE), 7: prints(edited), 9: prints(again), 8: {}})}
    assert found[0].source is None and found[7].source == 0 and found[8].source is None
    assert found[9].source == 7 and found[9].changed == ("main",) and found[9].added == ("more",)
    assert (found[9].shared, found[9].functions) == (4, 6)
    assert found[9].words == "#7: 4 of 6 functions; changed main; new more"


def test_a_later_head_is_no_source():
    assert derive({5: prints(BASE), 6: prints(BASE)})[0].source is None
