"""What the pages show, computed from what is known: pure functions from documents and reports to frozen values.

No template decides anything and no handler formats anything: a `Snapshot` goes in, dataclasses full of ready words and numbers come out,
so every sentence on a page can be tested without a browser. Times stay ISO text: the page's script makes `3 minutes ago` of them, so
that a fragment whose facts are the same is the same text, and is not sent twice.
"""
