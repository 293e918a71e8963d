"""What the executors have in common: a pass whose state holds the mechanism's own beside what speed needs."""

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from torch import nn

from crosslayer.fused.modules import altered, converted_by_autocast, hooked_everywhere, norm_obstacle
from crosslayer.fused.support import log_once, unsupported_reason
from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.depth_pass import BlockEnd, DepthPass
from crosslayer.ops.shapes import InputMap, Map, Prefix, ReadMap


class FusedState(NamedTuple):
    """The mechanism's state, and what an executor keeps beside it."""

    plain: Any
    extra: Any


class FusedPass(DepthPass):
    """A pass in which the map formula of a family of mechanisms runs in fused ops.

    A block whose modules have been exchanged or are listened to, or whose maps the ops do not take, runs plainly.
    """

    nothing: ClassVar[Any] = None
    """What is kept beside the mechanism's state at first."""

    def __init__(
        self,
        mechanism: Mechanism[Any],
        x: InputMap,
        carry: Any = None,
        first: int = 0,
        blocks: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__(mechanism, x, carry, first, blocks)
        self.state = FusedState(self.state, self.nothing)

    def plain_state(self) -> Any:
        """The mechanism's own."""
        return self.state.plain

    def read(self, t: int, x: InputMap) -> ReadMap:
        """Layer attention reads what there is."""
        self.check_turn(t)
        return x

    def end(self, t: int, ending: BlockEnd) -> Map:
        """Fused, or where that cannot be, plainly."""
        reason = self._reason(t, ending.convolved) or _end_obstacle(ending)
        if reason is None:
            out = self.fused_end(t, ending)
            self.next = t + 1
            return out
        log_once(f"{type(self.mechanism).__name__}: a block runs in plain PyTorch: {reason}")
        return self._plainly(lambda: super(FusedPass, self).end(t, ending))

    def merge(self, t: int, out: Map, shortcut: Map) -> Map:
        """Likewise, of a block that has added its shortcut by itself."""
        reason = self._reason(t, out)
        if reason is None:
            made = self.fused_merge(t, out, shortcut)
            self.next = t + 1
            return made
        log_once(f"{type(self.mechanism).__name__}: a block runs in plain PyTorch: {reason}")
        return self._plainly(lambda: super(FusedPass, self).merge(t, out, shortcut))

    def merge_prefix(self, t: int, prefix: Prefix, shortcut: Prefix) -> Prefix:
        """Plainly: there is no map in it."""
        prefix, _ = self.mechanism.merge_prefix(self.first + t, prefix, shortcut, self.state.plain)
        return prefix

    def fused_end(self, t: int, ending: BlockEnd) -> Map:
        """A block's output from its last convolution on."""
        raise NotImplementedError

    def fused_merge(self, t: int, out: Map, shortcut: Map) -> Map:
        """What becomes of the output of a block that has added its shortcut by itself."""
        raise NotImplementedError

    def after_plain(self, before: FusedState, plain: Any) -> Any:
        """What is kept beside the state once a block has run plainly."""
        return self.nothing

    @classmethod
    def block_obstacle(cls, mechanism: Mechanism[Any], t: int) -> str | None:
        """Why what the mechanism does to block t cannot be fused, if so."""
        raise NotImplementedError

    def _reason(self, t: int, x: Map) -> str | None:
        """Why block t, whose maps are like x, runs plainly, if so."""
        if converted_by_autocast(x):
            return "autocast would convert its maps first"
        return unsupported_reason(x) or hooked_everywhere() or self.block_obstacle(self.mechanism, t)

    def _plainly(self, run: Any) -> Map:
        """What the plain pass does, on the mechanism's own state."""
        before = self.state
        self.state = before.plain
        out = run()
        self.state = FusedState(self.state, self.after_plain(before, self.state))
        return out


def _end_obstacle(ending: BlockEnd) -> str | None:
    """Why the end of a residual block cannot be fused, if so."""
    return norm_obstacle(ending.norm) or altered(ending.activation, nn.ReLU)


def overridden(kind: type[Mechanism[Any]], base: type[Mechanism[Any]]) -> str | None:
    """The hook that a class has beyond those of the family it is of, if there is one."""
    hooks = ("start", "read", "inside", "gate", "join", "merge", "merge_prefix", "finish")
    own = [hook for hook in hooks[1:] if getattr(kind, hook) is not getattr(base, hook)]
    return own[0] if own else None
