"""What tests share: builders of models, planted cases, random graphs, the command line, scripted trainers."""

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"support.{module.name}" for module in pkgutil.iter_modules(__path__)))
