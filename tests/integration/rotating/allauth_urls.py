"""The addresses of the django-allauth site that `allauth_site` serves."""

from __future__ import annotations

from typing import Final

from django.urls import include, path

urlpatterns: Final = [
    path("accounts/", include("allauth.account.urls")),
    path("", include("allauth.idp.urls")),
]
