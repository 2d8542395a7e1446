"""Several deployments for one batch: which one each attempt is sent to, and which are left alone because they fail.

`groups` finds the deployments that answer for a model; `pool` chooses one for each attempt; `member` keeps what is
known of each; `pool_sender` sends a request through a pool. How a deployment is configured is in `_request`.
"""
