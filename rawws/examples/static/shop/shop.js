import { find, make, showState } from "../shared/dom.js"
import { Room } from "../shared/room.js"

const KEPT = 100

const room = new Room("room/orders", {
  last: KEPT,
  onState: (state) => showState(find("#state"), state),
  onMessage(order) {
    find("#list").prepend(make("li", {}, order))
    find("#empty").hidden = true
  },
})

find("#form").onsubmit = async (event) => {
  event.preventDefault()
  const response = await fetch("orders", { method: "POST", body: find("#what").value })
  if (!response.ok) {
    find("#answer").textContent = `The order was refused with ${response.status}. Please try again.`
    return
  }
  const { order, told } = await response.json()
  find("#answer").textContent = `“${order}” was ordered, and shown in ${told} ${told === 1 ? "browser" : "browsers"}.`
  find("#what").value = ""
}

find("#command").textContent = `curl -d '3 apples' ${new URL("orders", location.href)}`
room.open()
