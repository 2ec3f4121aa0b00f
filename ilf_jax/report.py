"""python -m ilf_jax.report: see `ilf_jax.reporting.rebuild`."""

from absl import app

from ilf_jax.reporting.rebuild import main

if __name__ == "__main__":
    app.run(main)
