"""A server and a client of the Model Context Protocol, made with its official SDK.

Usage: mcp_peer.py serve LOG            a server over stdio; each call that reaches it is a line in LOG
       mcp_peer.py serve-http LOG       the same over Streamable HTTP; prints its port
       mcp_peer.py serve-http-json LOG  the same, answering with JSON in place of streams
       mcp_peer.py serve-https LOG PEM  the same with TLS, by the certificate and key in PEM
       mcp_peer.py ask < JOB            a client; prints what it saw as one JSON object

A job says where ({"command": [...], "env": {...}} or {"url": ..., "token": ...}) and what: "calls" as [name, arguments] or
[name, arguments, meta], "reads" and "gets". What the server asks the client is answered, and told as "asked".
"""

import asyncio
import json
import os
import socket
import sys


def server(log):
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Context
    from mcp.types import SamplingMessage, TextContent
    from pydantic import BaseModel

    class Answer(BaseModel):
        text: str

    files = MCPServer("files")

    def note(what):
        with open(log, "a") as lines:
            lines.write(what + "\n")

    @files.tool()
    def read_file(path: str) -> str:
        """Reads a file."""
        note(f"read_file {path}")
        return f"content of {path}"

    @files.tool()
    def write_file(path: str, text: str) -> str:
        """Writes a file."""
        note(f"write_file {path}")
        return f"wrote {len(text)}"

    @files.tool()
    def delete_file(path: str) -> str:
        """Deletes a file."""
        note(f"delete_file {path}")
        return "deleted"

    @files.tool()
    def environment() -> str:
        """What the server knows of the client's credential, task and agent."""
        return json.dumps(sorted(name for name in os.environ if name.startswith("HARDTACK_")))

    @files.tool()
    async def ask_person(ctx: Context) -> str:
        answer = await ctx.elicit("which?", Answer)
        return answer.data.text

    @files.tool()
    async def ask_model(ctx: Context) -> str:
        question = SamplingMessage(role="user", content=TextContent(type="text", text="which?"))
        answer = await ctx.session.create_message(
            messages=[question], max_tokens=9, related_request_id=ctx.request_id
        )
        return answer.content.text

    @files.tool()
    async def ask_folders(ctx: Context) -> str:
        return str((await ctx.session.list_roots()).roots[0].uri)

    @files.resource("note://box/1")
    def one() -> str:
        note("note 1")
        return "first"

    @files.resource("note://box/2")
    def two() -> str:
        note("note 2")
        return "second"

    @files.prompt()
    def greet(name: str) -> str:
        return f"hello {name}"

    @files.prompt()
    def insult(name: str) -> str:
        return f"go away {name}"

    return files


async def serve_http(log, answers_json=False, pem=None):
    import uvicorn

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(16)
    print(listening.getsockname()[1], flush=True)
    app = server(log).streamable_http_app(json_response=answers_json)
    config = uvicorn.Config(app, log_level="critical", ssl_certfile=pem)
    await uvicorn.Server(config).serve(sockets=[listening])


async def ask(job):
    from mcp import Client, MCPError, StdioServerParameters, types

    asked = []

    async def person(context, params):
        asked.append("elicitation")
        return types.ElicitResult(action="accept", content={"text": "a person"})

    async def model(context, params):
        asked.append("sampling")
        text = types.TextContent(type="text", text="a model")
        return types.CreateMessageResult(role="assistant", content=text, model="none")

    async def folders(context):
        asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///srv")])

    answers = {"elicitation_callback": person, "sampling_callback": model, "list_roots_callback": folders}

    async def tried(doing):
        try:
            return {"result": (await doing).model_dump(mode="json", by_alias=True, exclude_none=True)}
        except MCPError as error:
            return {"error": error.error.code, "message": error.error.message}

    async def story(client):
        seen = {
            "version": client.protocol_version,
            "tools": sorted(tool.name for tool in (await client.list_tools()).tools),
            "resources": sorted(str(found.uri) for found in (await client.list_resources()).resources),
            "prompts": sorted(prompt.name for prompt in (await client.list_prompts()).prompts),
        }
        seen["calls"] = [
            await tried(client.call_tool(name, arguments, meta=meta[0] if meta else None))
            for name, arguments, *meta in job.get("calls", [])
        ]
        seen["reads"] = [await tried(client.read_resource(uri)) for uri in job.get("reads", [])]
        seen["gets"] = [await tried(client.get_prompt(name, {"name": "you"})) for name in job.get("gets", [])]
        return seen | {"asked": asked}

    if "command" in job:
        program, *arguments = job["command"]
        async with Client(StdioServerParameters(command=program, args=arguments, env=job["env"]), **answers) as client:
            return await story(client)
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    headers = {"Authorization": f"Bearer {job['token']}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        async with Client(streamable_http_client(job["url"], http_client=http), **answers) as client:
            return await story(client)


match sys.argv[1:]:
    case ["serve", log]:
        server(log).run()
    case ["serve-http", log]:
        asyncio.run(serve_http(log))
    case ["serve-http-json", log]:
        asyncio.run(serve_http(log, answers_json=True))
    case ["serve-https", log, pem]:
        asyncio.run(serve_http(log, pem=pem))
    case ["ask"]:
        print(json.dumps(asyncio.run(ask(json.load(sys.stdin)))))
    case _:
        sys.exit(__doc__)
