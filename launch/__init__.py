"""What ``spark-submit.sh`` does: choose the configuration, ship code and environment, submit, follow, say how it ended.

Standard library only, so that a wrong call is answered at once.
"""
