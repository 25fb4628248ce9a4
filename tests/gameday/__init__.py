"""The game day: incidents on a small running site, and what an operator sees of each.

``site`` starts the site and asks what an operator asks; ``incidents`` declares the incidents; ``play`` plays
one and judges what was shown; ``table`` prints the results. ``python -m tests.gameday`` (``make gameday``)
plays all of them.
"""
