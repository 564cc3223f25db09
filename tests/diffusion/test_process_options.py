import math

import pytest

from jaxmodels.diffusion import process


def test_processes_are_made_by_name():
    assert process.make_process("cosine", gamma=3.0) == process.cosine(gamma=3.0)
    with pytest.raises(ValueError, match="unknown process 'linear'; choose one of cos"):
        process.make_process("linear")


def test_every_option_of_a_process_is_reached_by_name():
    discrete = dict(num_steps=40, zero_terminal_snr=False, terminal_floor=0.25)
    found = process.make_process("squared_cosine", gamma=2, **discrete)
    assert found == process.squared_cosine(40, False, terminal_floor=0.25, gamma=2)
    assert found.schedule.times(40)[1] == 39 / 40
    wide = dict(sigma_data=0.5, sigma_min=0.01, sigma_max=9, p_mean=-1.0, p_std=0.7)
    found = process.make_process("edm", loss_weight="min_snr", **wide)
    assert found == process.edm(0.5, 0.01, 9, -1.0, 0.7, loss_weight="min_snr")
    assert found.schedule.times(1)[0] == pytest.approx(9)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosine", {"num_steps": 9}, "'cosine' has no option 'num_steps'; it takes pa"),
        ("edm", {"sigma": 1.0}, "'edm' has no option 'sigma'; it takes sigma_data, s"),
        ("cosine", {"gamma": "5"}, "gamma '5' is not a finite number, as 5.0 is"),
        ("edm", {"sigma_data": math.nan}, "sigma_data nan is not a finite number"),
        ("edm", {"p_mean": None}, "p_mean None is not a finite number"),
        ("squared_cosine", {"num_steps": 9.5}, "num_steps 9.5 is not a whole number"),
        ("squared_cosine", {"num_steps": True}, "num_steps True is not a whole num"),
        ("squared_cosine", {"zero_terminal_snr": 1}, "snr 1 is not True or False"),
    ],
)
def test_options_that_a_process_does_not_take_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        process.make_process(name, **options)
