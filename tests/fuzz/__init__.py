"""Coverage-guided fuzzing of everything that reads bytes or text from outside: `python -m tests.fuzz --runs 1000000`.

    targets        what is fuzzed: a function of bytes, seeds of it, and the words that its input is made of
    one            one target in this process, under atheris
    __main__       every target in a process of its own, and the figures

A target fails by any exception but the documented ones (`cardcore.errors`), and where reading and writing disagree.
"""
