import socket
bad=0
for r in range(12):
    p=40000+r
    s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.settimeout(4); s.bind(('10.1.0.2',p))
    try:
        s.connect(('10.2.0.5',7)); d=s.recv(100)
        if not d: raise Exception("empty")
        s.sendall(b"x"); s.recv(10)
        print(p, d)
    except Exception as e: bad+=1; print(p,'ERR',e)
    s.close()
print("bad",bad)
