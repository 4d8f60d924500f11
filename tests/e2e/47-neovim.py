"""Neovim is a client as it is: sockconnect + rpcrequest read an answer and show a named error."""
import json
import os
import shutil
import subprocess

from harness import SLOW, Daemon, check, check_equal, skip

LUA = r'''
local out = {}
local ok, why = pcall(function()
	local ch = vim.fn.sockconnect('pipe', vim.env.SINKD_TEST_SOCKET, {rpc = true})
	vim.rpcrequest(ch, 'session.create', {session = 'vim', seed = 3, max_tokens = 16})
	vim.rpcrequest(ch, 'session.say', {session = 'vim', text = 'Hello from an editor.'})
	local from, done, answer = 0, false, ''
	while not done do
		local r = vim.rpcrequest(ch, 'session.read', {session = 'vim', from = from, wait_ms = 10000})
		for _, e in ipairs(r.events) do
			if e.kind == 'text' and e.role == 'assistant' then answer = answer .. e.text end
			done = done or (e.kind == 'turn' and e.state == 'end')
		end
		from = r.next
	end
	out.answer = answer
	out.sessions = #vim.rpcrequest(ch, 'session.list').sessions
	local fine, e = pcall(vim.rpcrequest, ch, 'session.info', {session = 'nobody'})
	out.fine, out.error = fine, tostring(e)
end)
out.ok, out.why = ok, tostring(why)
local f = io.open(vim.env.SINKD_TEST_OUT, 'w')
f:write(vim.fn.json_encode(out))
f:close()
vim.cmd('qall!')
'''

nvim = shutil.which('nvim')
if not nvim:
    skip('no nvim')
with Daemon() as d:
    script, result = os.path.join(d.dir, 'x.lua'), os.path.join(d.dir, 'out')
    with open(script, 'w') as f:
        f.write(LUA)
    env = {**d.env, 'SINKD_TEST_SOCKET': d.socket, 'SINKD_TEST_OUT': result, 'HOME': d.dir, 'XDG_RUNTIME_DIR': d.dir}
    subprocess.run([nvim, '--headless', '-u', 'NONE', '-i', 'NONE', '-n', '-c', f'luafile {script}'], env=env,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60 * SLOW)
    with open(result) as f:
        out = json.load(f)
    check(out['ok'], 'nvim', out['why'])
    check_equal(out['sessions'], 1)
    check(out['answer'], 'an answer')
    check_equal(out['fine'], False, 'asking for a session that is not there')
    check('no_session: ' in out['error'], 'the error as Neovim shows it', out['error'])
    written = ''.join(e['text'] for e in d.events('vim') if e['kind'] == 'text' and e['role'] == 'assistant')
    check_equal(out['answer'], written, 'the answer')
