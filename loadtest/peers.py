"""How long other rollback policies, as documented, leave traffic on a failing canary.

Each is taken at its best: every check detects the fault from the first one on, whatever its
threshold, and the canary keeps the weight at which the fault began. Sources:

  Flagger   `interval: 1m`, `threshold: 10` in the examples of its documentation: 10 failed checks,
            one per minute (fluxcd/flagger docs/gitbook/usage/deployment-strategies.md:
            "interval * threshold")
  Argo      `interval: 5m`, `failureLimit: 3`: the fourth failed measurement ends the release, and
            the first is taken at the start (argoproj/argo-rollouts docs/features/analysis.md;
            analysis/analysis.go counts `Failed > failureLimit`)
  Runway    a check every 30 s, `max_failures: 3`
            (wudi/gateway docs/traffic-routing/canary-deployments.md)
  big bang  all traffic at once, and a person who notices, decides and switches back within 10
            minutes
"""

SECONDS = {"flagger": 10 * 60, "argo": 3 * 5 * 60, "runway": 3 * 30}
PERSON_SECONDS = 10 * 60


def policies(weight):
    """The policies for a fault that begins when the canary has `weight` percent."""
    staged = [
        {"name": name, "weight": weight, "seconds": seconds} for name, seconds in SECONDS.items()
    ]
    return staged + [{"name": "big_bang", "weight": 100, "seconds": PERSON_SECONDS}]
