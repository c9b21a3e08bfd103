"""One page that tells all of a run: ``RUN/report.html``.

It needs no network and no other file: style, script, data and pictures are inside, and it forbids itself every
request. Only what the run folder holds is shown; no net is loaded, and nothing is computed anew. What is missing is
said, so a run can be looked at in any state.
"""

from facepipe.report.build import report_key, write_report

__all__ = ["report_key", "write_report"]
