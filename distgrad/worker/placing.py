"""Where a tile lies: in the operands and results of a step, and among the pieces of a shard."""

from __future__ import annotations

from distgrad.primitives import Place
from distgrad.sharding import Bounds, Cut, Region
from distgrad.worker.registers import Narrow


def tile_place(where: Place, narrowed: tuple[list[Narrow], list[Narrow]], spans: list[Bounds]) -> Place:
    """Where operands and results of a tile lie, which has these parts of the windows, in a shard that lies `where`."""
    ins, outs = narrowed
    return Place(
        tuple([_narrow(r, part, spans) for r, part in zip(where.ins, ins, strict=True)]),
        tuple([_narrow(r, part, spans) for r, part in zip(where.outs, outs, strict=True)]),
    )


def _narrow(region: Region, part: Narrow, spans: list[Bounds]) -> Region:
    """The part of an operand's or a result's region that a tile has."""
    return region if part is None else (*region[: part[0]], spans[part[1]], *region[part[0] + 1 :])


def tiled(windows: list[Cut], piece: int) -> Bounds:
    """What tiles must go through so that they fill piece number `piece` of all windows."""
    if windows[0].points is not None:
        return windows[0].bounds(piece)
    step = windows[0].step or windows[0].size
    first = min(max(piece * step, cut.offset) for cut in windows)
    end = max(min((piece + 1) * step, cut.size + cut.offset - cut.overlap) for cut in windows)
    return first, end
