"""What a design costs for a margin one hopes for: power, runs, node hours, dollars."""

from __future__ import annotations

from dataclasses import dataclass

from harness.stats.power import power_one_sample
from harness.stats.sequential import power_of
from harness.tracks.track import Track


@dataclass(frozen=True)
class CostRow:
    """One design at one margin. Node hours count both arms and the warm-up pair."""

    design: str
    power: float
    mean_runs: float
    node_hours: float
    dollars: float | None


def cost_table(
    track: Track, margin_nats: float, sd_nats: float, price_per_hour: float | None
) -> list[CostRow]:
    """The track's sequential design and fixed designs of 5 to 40 runs.

    The baseline is assumed to run until the first look only: timing is settled there for any gain
    above a few tenths of a percent.
    """
    price = price_per_hour or track.hardware.reference_price_per_hour
    hours = track.design.expected_run_s / 3600
    looks = tuple(track.design.looks)
    sequential = power_of(looks, track.design.loss_p, margin_nats, sd_nats, replicates=20_000)

    def row(name: str, power: float, runs: float, baseline: float) -> CostRow:
        node_hours = (2 + runs + baseline) * hours
        return CostRow(name, power, runs, node_hours, node_hours * price if price else None)

    name = "sequential " + "/".join(str(look) for look in looks)
    rows = [row(name, sequential.power, sequential.mean_runs, looks[0])]
    for n in (5, 10, 15, 20, 30, 40):
        power = power_one_sample(n, margin_nats, sd_nats, track.contest.alpha)
        rows.append(row(f"fixed {n}", power, n, n))
    return rows
