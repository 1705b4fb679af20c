"""Hostile inputs, faults and kills, tried in a process with limits of time and memory: ``python -m tests.attack``.

Every module of this folder but the runner is one attack. Its function ``cases(large: bool)`` is a generator of pairs
``(name, function)``, in the same order each time: a few without ``large``, as CI runs them, all of them with it.
The function gets no arguments. It ends in one of the outcomes of :class:`tests.attack.runner.Outcome`: it returns (the
input was taken, and the function has asserted that the result is right), or raises the sentence that refuses it.

What ``cases`` does before its first pair is set-up and counts as rest: imports, a checkpoint, a server. A module may
set ``SECONDS``, ``MEGABYTES`` and ``HARD``, the limits of each of its cases, where those of the runner do not fit.
"""
