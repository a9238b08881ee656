"""The ledger: every SQL statement of Clockjack, and the rules under which they run.

A state change is one function with one guarded UPDATE; its row count is the verdict. Functions take a connection that
is inside a transaction (`Database.transaction` opens it) and never open one themselves.
"""
