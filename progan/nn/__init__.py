"""Networks, from pure functions (ops) over thin modules (layers) to whole generators and discriminators
(progressive).
"""
