// Counts its messages. `ctx.state`, like every other object, stays between them.
export async function onMessage(ctx, message) {
  ctx.state.count = (ctx.state.count ?? 0) + 1;
  if (message === "wait") await ctx.sleep(1);
  return `${message} is message ${ctx.state.count} of ${ctx.key}`;
}
