"""`.ci/deviceless`: what it reads in a program, and that no accelerator copies the ring."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

SCRIPT = pathlib.Path(__file__).parent.parent / ".ci" / "deviceless"
AGENTS = ["dqn", "rainbow", "rainbow.replay.prioritization=rank", "bootstrapped"]


@pytest.fixture(scope="module")
def deviceless():
    """The script as a module; nothing is written beside it."""
    loader = importlib.machinery.SourceFileLoader("deviceless", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("deviceless", loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setitem(sys.modules, "deviceless", module)
        loader.exec_module(module)
    return module


PROGRAM = """HloModule jit_f

%writes (param_0.7: u8[30,2,8], param_1: u8[1,2,8], param_2: s32[]) -> u8[30,2,8] {
  %param_0.7 = u8[30,2,8]{2,1,0:T(32,128)(4,1)} parameter(0)
  %param_1 = u8[1,2,8]{2,1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  %same = u8[30,2,8]{2,1,0} fusion(%param_0.7), output_to_operand_aliasing={{}: (0, {})}, calls=%c
  %bitcast.2 = u8[30,2,8]{2,1,0} bitcast(%same)
  ROOT %write.1 = u8[30,2,8]{2,1,0:T(8)} dynamic-update-slice(%bitcast.2, %param_1, %param_2)
}

%body (loop: (u8[30,2,8], u8[1,2,8], s32[])) -> (u8[30,2,8], u8[1,2,8], s32[]) {
  %loop = (u8[30,2,8]{2,1,0}, u8[1,2,8]{2,1,0}, s32[]) parameter(0)
  %ring = u8[30,2,8]{2,1,0} get-tuple-element(%loop), index=0
  %row = u8[1,2,8]{2,1,0} get-tuple-element(%loop), index=1
  %i = s32[] get-tuple-element(%loop), index=2
  %f.1 = u8[30,2,8]{2,1,0:T(32,128)(4,1)} fusion(%ring, %row, %i), kind=kLoop, calls=%writes
  ROOT %tuple = (u8[30,2,8]{2,1,0}, u8[1,2,8]{2,1,0}, s32[]) tuple(%f.1, %row, %i)
}

ENTRY %main (ring.1: u8[30,2,8], row.1: u8[1,2,8], i.1: s32[]) -> u8[30,2,8] {
  %ring.1 = u8[30,2,8]{2,1,0} parameter(0)
  %row.1 = u8[1,2,8]{2,1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %start = (u8[30,2,8]{2,1,0}, u8[1,2,8]{2,1,0}, s32[]) tuple(%ring.1, %row.1, %i.1)
  %while = (u8[30,2,8]{2,1,0}, u8[1,2,8]{2,1,0}, s32[]) while(%start), condition=%c, body=%body
  ROOT %out = u8[30,2,8]{2,1,0} get-tuple-element(%while), index=0
}
"""
IN_LOOP = "  ROOT %tuple = (u8[30,2,8]{2,1,0}"
IN_FUSION = "u8[30,2,8]{2,1,0:T(8)} dynamic-update-slice(%bitcast.2"
LAYOUT = "{0,2,1:T(8,128)(4,1)S(1)}"


def test_a_write_into_the_ring_is_no_copy_of_it(deviceless):
    assert deviceless.ring_sized(PROGRAM, 480) == []
    assert deviceless.count_kernels(PROGRAM) == (1, 0)


@pytest.mark.parametrize(
    "line",
    [
        f"  %copy.3 = u8[30,2,8]{LAYOUT} copy(%ring)",
        f"  %copy.3 = (u8[30,2,8]{LAYOUT}, u8[30,2,8]{{2,1,0}}, u32[]) copy-start(%ring)",
        "  %moved = u8[2,8,30]{2,1,0} transpose(%ring), dimensions={1,2,0}",
        "  %flat = s32[60,8]{1,0} convert(%ring)",
        "  %some = (f32[], u8[4,30,2,8]{3,2,1,0}) fusion(%ring), kind=kLoop, calls=%other",
    ],
)
def test_whatever_makes_an_array_as_large_as_the_ring_is_found(deviceless, line):
    text = PROGRAM.replace(IN_LOOP, f"{line}\n{IN_LOOP}")
    assert len(deviceless.ring_sized(text, 480)) == 1
    assert deviceless.ring_sized(text, 2000) == []


@pytest.mark.parametrize("opcode", ["select", "copy", "fusion"])
def test_a_write_into_something_new_is_a_copy(deviceless, opcode):
    new = f"%new = u8[30,2,8]{{2,1,0}} {opcode}(%bitcast.2)\n  ROOT %write.1"
    text = PROGRAM.replace("ROOT %write.1", new).replace(IN_FUSION, IN_FUSION[:-10] + "%new")
    assert "slice(%new, %param_1" in text
    assert len(deviceless.ring_sized(text, 480)) == 1


def test_a_real_program_is_read(deviceless):
    def write(ring, row, i):
        return ring.at[i].set(row)

    def found(**donated):
        program = jax.jit(write, **donated).lower(jnp.zeros((300, 5)), jnp.ones(5), 0).compile()
        return deviceless.ring_sized(program.as_text(), 1500)

    assert found(donate_argnums=0) == []
    assert len(found()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(("platform", "needs"), [("tpu", "libtpu"), ("gpu", "jax_cuda13_plugin")])
def test_no_accelerator_copies_the_ring(platform, needs, agent):
    if not importlib.util.find_spec(needs):
        pytest.skip(f"{needs} is not installed")
    pytest.importorskip("gymnax")  # an extra
    command = [sys.executable, SCRIPT, platform, agent, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 copies of the ring") == 7, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["dqn", "rainbow.replay.prioritization=rank"])
def test_none_of_four_chips_copies_its_part_of_the_ring(agent):
    pytest.importorskip("libtpu")
    pytest.importorskip("gymnax")  # an extra
    command = [sys.executable, SCRIPT, "tpu", agent, "--check", "--devices", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 copies of the ring") == 5, done.stdout + done.stderr
