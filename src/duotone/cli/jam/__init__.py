"""``duotone jam``: play a session live, from a terminal, a program, OSC or MIDI."""

from duotone.cli.jam.command import EXAMPLES, NAME, command

__all__ = ["EXAMPLES", "NAME", "command"]
