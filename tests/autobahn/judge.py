"""Judges a report of the Autobahn suite. Run by scripts/autobahn with the suite's own Python 2.7:
judge.py SPEC REPORT. Lists what is not plainly well, ends with one line of sums, and with 1 if a case
failed, closed wrongly or did not run.
"""

from __future__ import print_function

import json
import sys

from autobahntestsuite.case import (
    CaseBasename,
    CaseCategories,
    Cases,
    CaseSetname,
    CaseSubCategories,
)
from autobahntestsuite.caseset import CaseSet

TOLERATED = ("OK", "NON-STRICT", "INFORMATIONAL")


def main(spec_path, report_path):
    with open(spec_path) as spec_file:
        spec = json.load(spec_file)
    with open(report_path) as report_file:
        report = json.load(report_file)[spec["servers"][0]["agent"]]
    known = CaseSet(CaseSetname, CaseBasename, Cases, CaseCategories, CaseSubCategories)
    sums = {"OK": 0, "NON-STRICT": 0, "INFORMATIONAL": 0, "failed": 0}
    for case in known.parseSpecCases(spec):
        found = report.get(case, {})
        behavior = found.get("behavior", "did not run")
        close = found.get("behaviorClose", "did not run")
        is_well = behavior in TOLERATED and close in TOLERATED
        sums[behavior if is_well else "failed"] += 1
        if (behavior, close) != ("OK", "OK"):
            print("%s %s: %s, close %s" % (" " if is_well else "!", case, behavior, close))
    print(
        "autobahn: %d OK, %d non-strict, %d informational, %d failed"
        % (sums["OK"], sums["NON-STRICT"], sums["INFORMATIONAL"], sums["failed"])
    )
    return 1 if sums["failed"] or not sums["OK"] else 0


sys.exit(main(*sys.argv[1:]))
