"""What every benchmark prints: a line per figure, `name  value  goal  holds|short`."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """The lines so far; `code` is the exit code of the benchmark."""

    short: list[str] = field(default_factory=list)

    def note(self, name: str, value: float, unit: str) -> None:
        """Print a figure that no goal is set for."""
        self._print(name, value, unit, "", "")

    def at_least(self, name: str, value: float, unit: str, goal: float) -> None:
        """Print a figure that should not be below a goal."""
        self._judge(name, value, unit, f">= {_text(goal)}", value >= goal)

    def at_most(self, name: str, value: float, unit: str, goal: float) -> None:
        """Print a figure that should not be above a goal."""
        self._judge(name, value, unit, f"<= {_text(goal)}", value <= goal)

    @property
    def code(self) -> int:
        """Return 1 when a goal was missed, else 0."""
        return int(bool(self.short))

    def _judge(self, name: str, value: float, unit: str, goal: str, holds: bool) -> None:
        if not holds:
            self.short.append(name)
        self._print(name, value, unit, goal, "holds" if holds else "short")

    def _print(self, name: str, value: float, unit: str, goal: str, verdict: str) -> None:
        print(f"{name:<62} {_text(value):>10} {unit:<9} {goal:<12} {verdict}".rstrip(), flush=True)


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
