"""The report of a campaign: a line per release, sums, and whether the requirements hold."""

COLUMNS = (
    ("kind", 26),
    ("rps", 4),
    ("verdict", 12),
    ("objective", 14),
    ("seconds", 8),
    ("canary", 8),
    ("rescued", 8),
    ("seen", 6),
    ("worst", 6),
    ("Flagger", 8),
    ("Argo", 8),
    ("Runway", 7),
    ("big bang", 9),
)
# Exit codes of `weighbridge release start --wait`.
PROMOTED, ROLLED_BACK = 0, 3


def progress(row):
    """The progress line of an ended release."""
    why = f" by {row['objective']}" if row["objective"] else ""
    took = "" if row["seconds"] is None else f" after {row['seconds']:.1f} s"
    failures = f"{row['visible']} visible failures, {row['rescued']} failed over"
    return f"{row['service']} {row['kind']}: {row['verdict']}{why}{took}, {failures}"


def report(result):
    """Prints the report; returns whether all requirements hold."""
    rows = result["releases"]
    done = [row for row in rows if "error" not in row]
    print("\n" + " ".join(f"{name:>{width}}" for name, width in COLUMNS))
    for row in rows:
        failed = "error" in row
        print(f"{row['kind']:>26} {row['service']}: {row['error']}" if failed else line(row))
    print(
        "seen: failures that users saw beyond those of every version; worst: the forecast of\n"
        "`weighbridge plan`. Flagger, Argo, Runway, big bang: requests that would have failed, or\n"
        "been slow, under that policy.\n"
    )
    return all(
        [verdicts(result, done), worst_cases(done), against_flagger(done), success_share(result)]
    )


def line(row):
    others = row["others"] if row["harm"] else {}
    cells = [
        row["kind"],
        row["rate"],
        row["verdict"],
        row["objective"] or "-",
        seconds(row),
        row["canary_requests"],
        row["rescued"],
        row["visible"],
        row["worst_case"],
    ]
    cells += [
        f"{others[name]:.0f}" if name in others else "-"
        for name in ("flagger", "argo", "runway", "big_bang")
    ]
    return " ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS))


def seconds(row):
    return "-" if row["seconds"] is None else f"{row['seconds']:.1f}"


def check(good, text):
    print(f"{'ok  ' if good else 'FAIL'} {text}")
    return good


def verdicts(result, done):
    harmful = [row for row in done if row["harm"]]
    good = [row for row in done if not row["harm"]]
    stopped = sum(
        row["verdict"] == "rolled_back" and row["exit_code"] == ROLLED_BACK for row in harmful
    )
    passed = sum(row["verdict"] == "promoted" and row["exit_code"] == PROMOTED for row in good)
    return all(
        [
            check(
                len(done) == result["planned"],
                f"{len(done)} of {result['planned']} releases ran in {result['seconds']} s",
            ),
            check(
                stopped == len(harmful),
                f"{stopped} of {len(harmful)} harmful releases were rolled back",
            ),
            check(passed == len(good), f"{passed} of {len(good)} good releases were promoted"),
        ]
    )


def worst_cases(done):
    beyond = [row for row in done if row["visible"] > row["worst_case"]]
    most = max((row["visible"] for row in done), default=0)
    return check(
        not beyond,
        f"{len(beyond)} releases exceeded their worst case; the most visible failures were {most}",
    )


def against_flagger(done):
    errors = [row for row in done if row["harm"] == "errors"]
    seen = sum(row["visible"] for row in errors)
    sums = {
        name: sum(row["others"][name] for row in errors)
        for name in ("flagger", "argo", "runway", "big_bang")
    }
    print(
        "     over all faults with errors: "
        + f"{seen} visible failures; "
        + ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in sums.items())
    )
    if not errors:
        return True
    fewer = 100 * (1 - seen / sums["flagger"])
    return check(fewer >= 99, f"{fewer:.3f} % fewer than under Flagger's policy, at least 99 %")


def success_share(result):
    totals = result["totals"]
    late = 100 * totals["late"] / max(totals["requests"], 1)
    if late > 0.1:
        print(
            f"note: {late:.2f} % of the requests were sent over 50 ms late: the machine is too"
            " busy for these figures"
        )
    share = 100 * totals["good"] / max(totals["requests"], 1)
    return check(
        share >= 99.9,
        f"{share:.4f} % of {totals['requests']} requests succeeded, at least 99.9 %: "
        + ", ".join(
            f"{totals[name]} {text}"
            for name, text in (
                ("base", "failed as on every version"),
                ("fault", "by a fault"),
                ("proxy", "by the proxy"),
                ("unanswered", "without a response"),
                ("given_up", "aborted by impatient users"),
            )
        ),
    )
