"""Many runs from one file: which, run one after another or several at once, and one table and one figure of them."""
