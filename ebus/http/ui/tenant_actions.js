// What an admin does to a tenant: each asks for what it needs, and says what it has done.

import { ApiError, at, json } from "./api.js";
import { ask, showKey } from "./dialog.js";
import { el, select, tell } from "./dom.js";

const SCOPES = { both: "read and write", read: "read only", write: "write only" };
const DURABILITIES = { "": "the server’s", full: "full: survives a power cut", normal: "normal: survives the process" };

const pathOf = (tenant) => `/admin/tenants/${encodeURIComponent(tenant)}`;
const plain = () => el("input", { autocomplete: "off", spellcheck: "false", autocapitalize: "off" });

export function createTenant(done) {
  const name = plain();
  name.required = true;
  name.maxLength = 100;
  const fields = {
    Name: ["Name", name, "1 to 100 of A-Z a-z 0-9 _ -"],
    Durability: ["Durability", select(DURABILITIES, "")],
    "Key name": ["Name of its first key", plain(), "left out, the server calls it"],
    Scope: ["Scope of the key", select(SCOPES, "both")],
  };
  ask("Create a tenant", "", fields, "Create", async (entered) => {
    const body = { tenant: entered.Name, scope: entered.Scope };
    if (entered.Durability) body.durability = entered.Durability;
    if (entered["Key name"]) body.key_name = entered["Key name"];
    const created = await json("/admin/tenants", { method: "POST", body });
    return () => done(created);
  });
}

export async function suspend(tenant, done) {
  await json(`${pathOf(tenant)}/suspend`, { method: "POST" });
  tell(`${tenant} is suspended: its keys open nothing.`);
  await done();
}

export async function resume(tenant, done) {
  await json(`${pathOf(tenant)}/resume`, { method: "POST" });
  tell(`${tenant} is served again.`);
  await done();
}

export function addKey(tenant, done) {
  const fields = {
    name: ["Name", plain(), "left out, the server calls it"],
    scope: ["Scope", select(SCOPES, "both")],
    expires_at: ["Expires", plain(), "2027-01-31T00:00:00Z; left out, never"],
  };
  ask(`A further key for ${tenant}`, "", fields, "Add", async (entered) => {
    const body = Object.fromEntries(Object.entries(entered).filter(([, value]) => value));
    const added = await json(`${pathOf(tenant)}/keys`, { method: "POST", body });
    return () => {
      showKey(added);
      done();
    };
  });
}

export function rotateKey(tenant, keys, done) {
  const names = Object.fromEntries([["", "all of them"], ...keys.map(({ name }) => [name, name])]);
  const overlap = plain();
  overlap.value = "24h";
  const fields = {
    key_name: ["The key that ends", select(names, "")],
    overlap: ["It is good for", overlap, "such as 24h or 30m; 0s ends it at once"],
  };
  const text = "A new key of the same scope is made. The old one ends after this time.";
  ask(`Rotate a key of ${tenant}`, text, fields, "Rotate", async (entered) => {
    const body = Object.fromEntries(Object.entries(entered).filter(([, value]) => value));
    const rotated = await json(`${pathOf(tenant)}/rotate-key`, { method: "POST", body });
    return () => {
      showKey(rotated);
      done();
    };
  });
}

export function revokeKey(tenant, name, done) {
  const text = `Whoever uses the key “${name}” of ${tenant} is locked out at once.`;
  ask(`Revoke “${name}”`, text, {}, "Revoke", async () => {
    await json(`${pathOf(tenant)}/keys/${encodeURIComponent(name)}`, { method: "DELETE" });
    tell(`The key “${name}” opens nothing any more.`);
    return done;
  }, { isDangerous: true });
}

export function changeLimits(tenant, limits, names, done) {
  const fields = Object.fromEntries(
    names.map((name) => {
      const input = el("input", { inputmode: "decimal", autocomplete: "off" });
      input.value = limits[name] ?? "";
      return [name, [name, input]];
    }),
  );
  ask(`Limits of ${tenant}`, "What is left empty is that of all tenants.", fields, "Change", async (entered) => {
    const changed = Object.entries(entered).filter(([name, value]) => value !== String(limits[name] ?? ""));
    const wrong = changed.find(([, value]) => value && !Number.isFinite(Number(value)));
    if (wrong) throw new ApiError(0, { detail: `${wrong[0]} is a number, such as 100` });
    const body = { limits: Object.fromEntries(changed.map(([name, value]) => [name, value === "" ? null : Number(value)])) };
    await json(pathOf(tenant), { method: "PATCH", body });
    tell(`The limits of ${tenant} are changed.`);
    return done;
  });
}

export function changeDurability(tenant, durability, done) {
  const chosen = select(DURABILITIES, durability ?? "");
  ask(`Durability of ${tenant}`, "", { durability: ["Durability", chosen] }, "Change", async (entered) => {
    await json(pathOf(tenant), { method: "PATCH", body: { durability: entered.durability || null } });
    tell(`The durability of ${tenant} is changed.`);
    return done;
  });
}

/** The name has to be repeated. */
export function deleteTenant(tenant, done) {
  const text = "Its events and checkpoints go to the trash, from where they can be taken by hand until they are purged.";
  const fields = { confirm: [`Repeat the name: ${tenant}`, plain()] };
  ask(`Delete ${tenant}`, text, fields, "Delete", async ({ confirm }) => {
    if (confirm !== tenant) throw new ApiError(0, { detail: `That is not the name. Write ${tenant}.` });
    await json(at(pathOf(tenant), { confirm }), { method: "DELETE" });
    tell(`${tenant} is in the trash.`);
    return done;
  }, { isDangerous: true });
}

export function purge({ id, tenant }, done) {
  const fields = { confirm: [`Repeat the name: ${tenant}`, plain()] };
  ask(`Purge ${tenant}`, "Its files are removed for good.", fields, "Purge", async ({ confirm }) => {
    if (confirm !== tenant) throw new ApiError(0, { detail: `That is not the name. Write ${tenant}.` });
    await json(at(`/admin/trash/${encodeURIComponent(id)}`, { confirm }), { method: "DELETE" });
    tell(`${tenant} is gone for good.`);
    return done;
  }, { isDangerous: true });
}
