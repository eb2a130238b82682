"""What is raised: who catches it, and with what a process ends."""

from jdqn.config import ConfigError, RunError


def test_a_mistake_in_a_field_is_a_value_error_so_that_pydantic_collects_it():
    assert issubclass(ConfigError, ValueError)
    assert not issubclass(RunError, ValueError)


def test_a_run_that_cannot_go_on_ends_with_a_status_of_its_own():
    assert RunError("the disk is full").status == 1
    assert RunError("stopped", status=130).status == 130
