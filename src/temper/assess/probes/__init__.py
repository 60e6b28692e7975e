"""Probes: attacks on what a model is said to have forgotten, one file each.

A probe does something to a model, or says something for it, and measures what comes back. To add one, derive from `Probe` and name it in
`temper.registry`, or in an entry point of the group `temper.probe`.
"""

from temper.assess.probes.probe import Probe, Request, Setting

__all__ = ["Probe", "Request", "Setting"]
