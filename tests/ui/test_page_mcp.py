"""The endpoints as tools of the Model Context Protocol, where the extra ``gradio[mcp]`` is installed."""

import ast
import asyncio
import base64
import dataclasses
import socket
import urllib.request

import pytest
from factory import tiny_checkpoint, tiny_config

from dear.config import MelConfig
from dear.pipeline import AudioDEAR
from dear.ui import serve

mcp = pytest.importorskip("mcp", reason="gradio[mcp] is not installed")


def test_programs_find_the_tools_and_use_them(tmp_path, monkeypatch):
    from mcp.client.streamable_http import streamable_http_client

    monkeypatch.setenv("GRADIO_MCP_SERVER", "true")
    config = dataclasses.replace(tiny_config(), mel=MelConfig(frames=64, samples=8_000))
    folder = tiny_checkpoint(tmp_path / "tiny", config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = serve(AudioDEAR.from_pretrained(folder, device="cpu"), "127.0.0.1", port, str(folder))

    async def talk():
        async with (
            streamable_http_client(f"{page.local_url}gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            heard = await session.call_tool("generate", {"prompt": "a dog", "seed": 3})
            refused = await session.call_tool("generate", {"prompt": "a dog", "cfg_scale": 99})
            compared = await session.call_tool("compare", {"prompt": "a dog", "cfg_scales": [1, 2], "seed": 3})
            with urllib.request.urlopen(ast.literal_eval(heard.content[0].text)[0]["url"]) as answer:
                sound = "data:audio/wav;base64," + base64.b64encode(answer.read()).decode()
            region = {"audio": sound, "start": 0.1, "end": 0.3, "prompt": "rain", "seed": 4}
            changed = await session.call_tool("inpaint", region)
            longer = await session.call_tool("extend", {"audio": sound, "seconds": 0.5, "prompt": "rain", "seed": 4})
            return tools, heard, refused, compared, changed, longer

    try:
        tools, heard, refused, compared, changed, longer = asyncio.run(talk())
    finally:
        page.close(verbose=False)
    assert sorted(tool.name for tool in tools) == ["compare", "extend", "generate", "inpaint"]
    (tool,) = [tool for tool in tools if tool.name == "generate"]
    assert "ten seconds of sound" in tool.description
    assert "what should be heard" in tool.inputSchema["properties"]["prompt"]["description"]
    assert not heard.isError
    file, facts = ast.literal_eval(heard.content[0].text)
    assert file["url"].endswith("a-dog-3.wav") and facts["seed"] == 3
    assert not compared.isError and compared.content[0].text.count("a-dog-3.wav") >= 2
    for answer in (changed, longer):
        assert not answer.isError, answer.content[0].text
        file, facts = ast.literal_eval(answer.content[0].text)
        assert file["url"].endswith("rain-4.wav") and facts["settings"]["iterations"] > 0
    assert refused.isError and "cfg_scale must be a number from 0 to 20, got 99" in refused.content[0].text
