# %%
from IPython.display import display

from deviceflow import Client, LoginPending, OAuth

robot = OAuth(issuer="https://login.example.com", client_id="robot", scopes="read offline_access")
client = Client("sqlite:///grants.db")

# %%
try:
    token = client.get_token("notebook", robot, purpose="my notebook", mint="now")
except LoginPending as pending:
    display(pending.login)
