"""`genre doctor` and `genre support-bundle`: what is wrong on this machine, in stages, and what a maintainer needs.

Read-only but for one message to the doctor's own topic. Start at `stages.py`; each other module is one part's stages.
"""
