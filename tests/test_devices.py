"""Several CUDA devices, one worker process each: how they are named and laid out, without needing any."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coverslip.workflows.cluster import cuda_devices, device_cluster, device_names, device_workers

names = st.lists(st.integers(0, 15).map(str), min_size=1, max_size=8, unique=True)


@given(names, st.integers(1, 64))
def test_each_device_has_one_worker_that_sees_it_alone_and_threads_are_shared_out(devices, threads):
    workers = device_workers(devices, threads)
    assert [worker["env"]["CUDA_VISIBLE_DEVICES"] for worker in workers.values()] == devices
    given_out = sum(worker["nthreads"] for worker in workers.values())
    assert given_out <= max(threads, len(devices))
    assert given_out > threads - len(devices)
    assert sum(worker["memory_limit"] for worker in workers.values()) == pytest.approx(1)


@given(names)
def test_devices_go_by_the_names_the_environment_gives_them(devices):
    assert device_names(",".join(devices), len(devices)) == tuple(devices)
    assert device_names(None, len(devices)) == tuple(str(n) for n in range(len(devices)))


def test_without_nvidia_s_tool_there_are_no_devices_and_torch_is_not_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cuda_devices() == ()


def test_every_worker_process_sees_its_own_device():
    from distributed import Client

    with (
        device_cluster(("7", "GPU-8"), 4) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        assert sorted(seen.values()) == ["7", "GPU-8"]
        assert sorted(client.nthreads().values()) == [2, 2]
        assert all(address.startswith("tcp://127.0.0.1:") for address in seen)
