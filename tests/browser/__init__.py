"""The real app in a real browser. Skipped where there is none; `python3 run.py test --require-browser` finds or
installs one."""
