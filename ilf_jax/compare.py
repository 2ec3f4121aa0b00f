"""python -m ilf_jax.compare: see `ilf_jax.comparison.command`."""

from absl import app

from ilf_jax.comparison.command import main

if __name__ == "__main__":
    app.run(main)
