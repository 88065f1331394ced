"""An object store on a real socket that lies when it is told to, and syncs from it as processes or in this one."""
